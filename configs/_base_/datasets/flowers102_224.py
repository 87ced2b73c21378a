_base_ = './imagenet_deit.py'

dataset_type = 'Flowers102'
data_root = 'data/flowers102'
train_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root, split='trainval'))
val_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root, split='test'),
)
test_dataloader = val_dataloader
