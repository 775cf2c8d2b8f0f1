"""Engines that several methods share; knows no method and no terminal."""
