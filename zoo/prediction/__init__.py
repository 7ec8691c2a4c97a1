"""Prediction of many images: what is given, downloads, engines, and the file that is written."""
