"""Losses of queries, DINO's and Mask2Former's, of all predictions and images of a batch at once.

Our heads have them, and mmdet's and mmseg's own get them. They need mmdet.
"""
