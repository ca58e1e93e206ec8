"""Model files: GGUF and safetensors readers, and the tokenizer. gguf.py and tokenizer.py load no torch."""
