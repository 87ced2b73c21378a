# The ViT that KArAt is compared with: vit_t_cifar10.py is one for images of 32 pixels.
_base_ = './vit_t_karat_cifar10.py'

attn_cfg = dict(_delete_=True, type='SoftmaxAttention', init='trunc_normal')
model = dict(backbone=dict(attn_cfg=attn_cfg))
