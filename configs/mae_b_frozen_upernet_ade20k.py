# MAE B with UperNet, of which the heads alone are trained.
_base_ = './mae_b_upernet_ade20k.py'

model = dict(backbone=dict(frozen_stages=12, drop_path_rate=0.0))
