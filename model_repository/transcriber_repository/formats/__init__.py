"""How weights come: Hugging Face safetensors and CTranslate2, both read as named byte ranges of their files."""
