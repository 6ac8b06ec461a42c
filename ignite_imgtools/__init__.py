"""Everything around the model when image models are trained and evaluated with PyTorch-Ignite."""

__version__ = "0.1.0"
