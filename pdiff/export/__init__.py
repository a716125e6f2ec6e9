"""Take a model away: to a file or to the Hugging Face Hub, with its card."""
