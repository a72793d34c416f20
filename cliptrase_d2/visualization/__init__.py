"""Pictures of label maps, clusters and correlations. All functions take and return arrays."""
