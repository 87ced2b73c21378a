"""What operators share.

``registration`` makes an operator known to PyTorch, ``products`` serves those whose forward pass is
PyTorch's own; ``backend`` says where kernels run, ``dtypes`` and ``checks`` what they take. Of
kernels, and so imported by them alone: ``launch``, ``tiles``, ``rational`` (its arithmetic) and
``reduction`` (sums without atomics).
"""
