"""Label maps as pictures: arrays in, RGB arrays out."""
