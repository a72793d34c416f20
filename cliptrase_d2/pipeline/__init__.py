"""The stages of CLIPtrase. Read model, stages, correlation, clustering, proposals, classify, then windows and tiles."""
