"""The admin API under /v1: its calls as values, their models, and the views that answer them."""
