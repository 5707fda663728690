"""Sparse contrastive training (SCT): questions with passages, sampled candidates, ranking losses, and their trainer."""
