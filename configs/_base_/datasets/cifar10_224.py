_base_ = './rgb_arrays_deit.py'

# Downloads itself.
dataset_type = 'CIFAR10'
data_root = 'data/cifar10'
train_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root, split='train'))
val_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root, split='test'))
test_dataloader = val_dataloader
