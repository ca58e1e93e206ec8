"""Whose request goes next when a model has less capacity than is asked for."""
