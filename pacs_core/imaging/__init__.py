"""Pixels: pages of print jobs as PNG and PDF, and images made ready to be printed. Owns pillow."""
