"""From a style card to weights: a plain LoRA on synthetic interactions, merged below the private core."""
