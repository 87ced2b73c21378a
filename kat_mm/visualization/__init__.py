"""Plots of learned functions and of predictions. Import the module that is needed."""
