_base_ = './arrays_deit.py'

# Downloads itself.
dataset = dict(type='TorchvisionArrays', name='STL10', data_root='data/stl10')
train_dataloader = dict(dataset=dict(**dataset, split='train'))
val_dataloader = dict(dataset=dict(**dataset, split='test'))
test_dataloader = val_dataloader
