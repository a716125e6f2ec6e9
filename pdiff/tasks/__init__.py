"""What the trained net is for: how images are read, what is minimised, what is scored."""
