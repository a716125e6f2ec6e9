"""The parameter autoencoder (paper, Section 2.3): net, codec, the linear codec, low memory."""
