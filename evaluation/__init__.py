"""Instruments: how good the pictures are, what each code is worth, and the pages that show it.

They take images, features and callables, never a model class.
"""
