"""Accepts messages: the checks, the rendering and the commit."""
