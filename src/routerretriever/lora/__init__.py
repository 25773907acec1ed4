"""Experts as LoRA adapters: their factors, the layers that apply them, PEFT's files."""
