_base_ = './vit_t_karat_v3_cifar10.py'

model = dict(data_preprocessor=dict(num_classes=100), head=dict(num_classes=100))
dataset_type = 'CIFAR100'
data_root = 'data/cifar100'
train_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root))
val_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root))
test_dataloader = val_dataloader
