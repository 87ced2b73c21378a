"""Files that are small, and would fill the memory once they are read."""

import zipfile

import numpy as np
import pytest
import torch

from kat_mm.backbones import KAT
from kat_mm.checkpoints import read_checkpoint, trust_files
from kat_mm.checkpoints.state_dict import find_state_dict
from kat_mm.engine.work_dir import latest_checkpoint
from kat_mm.errors import UserError

SMALL = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


def swell(path, size=2**41):
    """Have an archive say that its largest member unpacks to so many bytes."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        max(archive.infolist(), key=lambda info: info.file_size).file_size = size


@pytest.mark.parametrize('name', ['a.pth', 'a.npz'])
def test_an_archive_of_many_times_its_size_is_refused_before_it_is_unpacked(name, tmp_path):
    path = tmp_path / name
    state = KAT(SMALL, img_size=32).state_dict()
    if name == 'a.pth':
        torch.save(state, path)
    else:
        np.savez(path, **{key: value.numpy() for key, value in state.items()})
    assert len(read_checkpoint(path)) == len(state)
    swell(path)
    with pytest.raises(UserError, match=rf'{name} has 0\.\d MB, of which 2199 GB are to be unpack'):
        read_checkpoint(path)
    trust_files(False)
    with pytest.raises(UserError, match='these are no weights'):
        torch.load(path)


def test_a_run_does_not_go_on_from_one(tmp_path):
    for step in (2, 4):
        torch.save(dict(weight=torch.zeros(100)), tmp_path / f'iter_{step}.pth')
    swell(tmp_path / 'iter_4.pth')
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_2.pth')


def damage(path, tensor):
    """Turn one bit of a tensor in a file of torch.save, or of NumPy."""
    content = bytearray(path.read_bytes())
    content[content.index(tensor.numpy().tobytes()) + 3] ^= 0x40
    path.write_bytes(content)


def test_a_tensor_with_another_bit_is_refused_by_whatever_reads_it(tmp_path):
    state = KAT(SMALL, img_size=32).state_dict()
    path = tmp_path / 'a.pth'
    torch.save(dict(state_dict=state), path)
    damage(path, state['blocks.1.mlp.fc2.weight'])
    assert len(torch.load(path)['state_dict']) == len(state)  # PyTorch sees nothing
    for unpickle in (False, True):
        with pytest.raises(UserError, match=r'a\.pth is damaged: the checksum of a/data/\d+ in it'):
            read_checkpoint(path, unpickle)
    trust_files(False)
    with pytest.raises(UserError, match='is damaged'):
        torch.load(path)
    np.savez(tmp_path / 'a.npz', x=state['pos_embed'].numpy())
    damage(tmp_path / 'a.npz', state['pos_embed'])
    with pytest.raises(UserError, match=r'a\.npz cannot be read'):
        read_checkpoint(tmp_path / 'a.npz')


def test_an_archive_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(x=torch.ones(3)), tmp_path / 'iter_1.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(tmp_path / 'iter_1.pth')['x'].sum() == 3
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_1.pth')


def test_compressed_weights_are_read(tmp_path):
    # Also those that are all zeros, of which a thousandth is left.
    np.savez_compressed(tmp_path / 'a.npz', x=np.zeros(10**6, np.float32))
    assert read_checkpoint(tmp_path / 'a.npz')['x'].shape == (10**6,)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_a_number_that_is_shown_again_and_again_is_refused(dtype, tmp_path):
    state = KAT(SMALL, img_size=32).state_dict()
    state['head.weight'] = torch.zeros(1, dtype=dtype).expand(10**12)
    torch.save(state, tmp_path / 'a.pth')
    with pytest.raises(
        UserError, match=r'head\.weight in the checkpoint is a tensor of \[10{12}\]'
    ):
        find_state_dict(read_checkpoint(tmp_path / 'a.pth'))
    state['head.weight'] = torch.zeros(1, dtype=dtype).expand(100)
    torch.save(state, tmp_path / 'a.pth')
    assert find_state_dict(read_checkpoint(tmp_path / 'a.pth'))['head.weight'].shape == (100,)


def test_what_lies_beside_arrays_is_left_out(tmp_path):
    np.savez(tmp_path / 'a.npz', x=np.ones(2))
    with zipfile.ZipFile(tmp_path / 'a.npz', 'a') as archive:
        archive.writestr('../outside.txt', 'text')
    assert list(read_checkpoint(tmp_path / 'a.npz')) == ['x']
    assert not (tmp_path.parent / 'outside.txt').exists()
