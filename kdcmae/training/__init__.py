"""Pretraining and finetuning, on one process or many."""
