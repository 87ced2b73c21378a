"""Small data sets of drawn outdoor scenes, in the layouts of ADE20K, COCO and ImageNet.

One drawing serves the three tasks: a :class:`Scene` knows for every pixel which segment covers
it, and for every segment what it is. Masks are therefore exact, and modal: what is hidden is not
in them. Image ``i`` of a split depends on the seed, the split and ``i`` alone, so a larger data set
begins with the images of a smaller one.
"""

from .layouts import WRITERS, SampleSettings
from .make import make_sample_data
from .scenes import Scene

__all__ = ['WRITERS', 'SampleSettings', 'Scene', 'make_sample_data']
