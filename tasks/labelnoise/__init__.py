"""TABASCO: which labels of a long-tailed data set are wrong."""
