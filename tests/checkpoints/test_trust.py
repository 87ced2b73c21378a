"""Files that hold code, by every way on which a library reads one for a model that holds a KAT."""

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.infer import BaseInferencer
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from mmengine.structures import InstanceData
from torch import nn

from kat_mm.backbones import KAT
from kat_mm.checkpoints import read_checkpoint, trust_files
from kat_mm.engine.configs import read_config
from kat_mm.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
SMALL = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


class Command:
    """A pickle of it runs a command of the shell when it is read."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def ran(tmp_path):
    """What is there once the code of a file has run."""
    return tmp_path / 'ran'


@pytest.fixture
def evil(tmp_path, ran):
    """A checkpoint that makes ``ran``."""
    path = tmp_path / 'evil.pth'
    torch.save({'state_dict': {}, 'meta': {}, 'code': Command(f'touch {ran}')}, path)
    return str(path)


def classifier(backbone='KAT', **model) -> Config:
    backbones = dict(
        KAT=dict(type='KAT', arch=SMALL, img_size=32),
        ResNet=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
    )
    width = dict(KAT=32, ResNet=64)[backbone]
    parts = dict(
        type='ImageClassifier',
        backbone=backbones[backbone],
        neck=None if backbone == 'KAT' else dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=width),
    )
    return Config(dict(model={**parts, **model}, default_scope='mmpretrain'))


def detector() -> Config:
    cfg = Config.fromfile(CONFIGS / 'kat_t_faster_rcnn_bccd.py')
    cfg.model.backbone.update(arch=SMALL, global_attn_indices=(1,))
    cfg.model.neck.update(in_channels=32)
    return cfg


def segmentor() -> Config:
    cfg = Config.fromfile(CONFIGS / 'kat_t_upernet_sample.py')
    cfg.model.backbone.update(arch=SMALL, out_indices=(0, 0, 0, 1)[2:])
    return cfg


def get_model(cfg, **kwargs):
    from mmpretrain import get_model

    return get_model(cfg, **kwargs)


def init_weights(cfg, of=None, **init_cfg):
    """Build a model and initialise its weights, with an ``init_cfg`` of a part."""
    if init_cfg:
        (cfg.model[of] if of else cfg.model)['init_cfg'] = dict(type='Pretrained', **init_cfg)
    model = get_model(cfg)
    model.init_weights()
    return model


def init_detector(checkpoint):
    from mmdet.apis import init_detector

    return init_detector(detector(), checkpoint, device='cpu')


def init_neck(checkpoint):
    cfg = detector()
    cfg.model.neck.init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        registry.build(cfg.model).init_weights()


def init_segmentor(checkpoint):
    from mmseg.apis import init_model

    return init_model(segmentor(), checkpoint, device='cpu')


def lora_model(init_cfg=None):
    import mmpretrain.models  # noqa: F401

    backbone = dict(type='kat_mm.KAT', arch=SMALL, img_size=32, init_cfg=init_cfg)
    cfg = dict(type='LoRAModel', module=backbone, rank=2, targets=[dict(type='qkv')])
    with MODELS.switch_scope_and_registry('mmpretrain') as registry:
        return registry.build(cfg)


def load_by_model_index(checkpoint):
    """As somebody's package of models names their weights, in a file that mmpretrain reads."""
    from mmpretrain.apis.model import ModelHub

    folder = Path(checkpoint).parent
    cfg = classifier()
    cfg.dump(str(folder / 'model.py'))
    models = [dict(Name='theirs', Config='model.py', Weights=checkpoint, Results=[])]
    mmengine.dump(dict(Models=models), str(folder / 'metafile.yml'))
    mmengine.dump(dict(Import=['metafile.yml']), str(folder / 'model-index.yml'))
    known = dict(ModelHub._models_dict)
    try:
        ModelHub.register_model_index(folder / 'model-index.yml')
        return get_model('theirs', pretrained=True)
    finally:
        ModelHub._models_dict.clear()
        ModelHub._models_dict.update(known)


WAYS = {
    'model index': load_by_model_index,
    'adapters (LoRA)': lambda path: load_checkpoint(lora_model(), path),
    'adapted model': lambda path: lora_model(dict(type='Pretrained', checkpoint=path)),
    'get_model': lambda path: get_model(classifier(), pretrained=path),
    'model.pretrained': lambda path: init_weights(classifier(pretrained=path)),
    'model.init_cfg': lambda path: init_weights(classifier(), checkpoint=path),
    'backbone.init_cfg': lambda path: init_weights(classifier(), 'backbone', checkpoint=path),
    'head.init_cfg': lambda path: init_weights(classifier(), 'head', checkpoint=path),
    'neck.init_cfg': init_neck,
    'prefix': lambda path: init_weights(classifier(), 'head', checkpoint=path, prefix='head.'),
    'init_detector': init_detector,
    'init_model': init_segmentor,
    'load_checkpoint': lambda path: load_checkpoint(KAT(SMALL), path),
}


@pytest.mark.parametrize('way', WAYS)
def test_code_in_a_file_does_not_run_for_a_model_that_holds_a_kat(way, evil, ran):
    with pytest.raises(UserError) as raised:
        WAYS[way](evil)
    message = str(raised.value)
    assert evil in message and 'would run code: it wants posix.system' in message
    assert '--allow-pickle' in message
    assert not ran.exists()


# Each reader once.
LOADING = ('get_model', 'model.pretrained', 'head.init_cfg', 'init_detector', 'init_model')


@pytest.mark.parametrize('way', LOADING)
def test_weights_and_logs_load_on_the_same_ways(way, tmp_path, logged):
    model = WAYS[way](None) if way.startswith('init_') else get_model(classifier())
    state = {key: torch.full_like(value, 0.5) for key, value in model.state_dict().items()}
    of_head = way == 'head.init_cfg'
    if of_head:
        state = {key[5:]: value for key, value in state.items() if key.startswith('head.')}
    loaded = WAYS[way](logged(state)).state_dict()
    assert all((loaded['head.' * of_head + key] == 0.5).all() for key in state)


@pytest.fixture
def logged(tmp_path):
    """Writes a checkpoint with logs as those of mmengine's runs, which are no tensors."""

    def write(state):
        path = tmp_path / 'weights.pth'
        hub = mmengine.logging.MessageHub('test_trust')
        hub.update_scalar('train/loss', np.float32(1.5))
        classes = dict(classes=('a', 'b', 'c'), palette=[(0, 0, 0)] * 3)
        meta = dict(dataset_meta=classes)
        content = dict(state_dict=state, meta=meta, message_hub=hub.state_dict())
        torch.save(content, path)
        return str(path)

    return write


def string(text: str) -> bytes:
    return b'X' + len(text).to_bytes(4, 'little') + text.encode()


def attribute(of: bytes, name: str) -> bytes:
    return b'cbuiltins\ngetattr\n' + of + string(name) + b'\x86R'


def test_attributes_do_not_lead_to_code(tmp_path, ran):
    """With getattr, which mmengine allows, a file exchanges a builtin that reading it calls."""
    history_buffer = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'
    builtins = attribute(attribute(history_buffer, '__init__'), '__builtins__')
    execute = attribute(attribute(b'cbuiltins\ngetattr\n', '__self__'), 'exec')
    program = string(f'import os; os.system("touch {ran}")')
    torch.save({}, tmp_path / 'empty.pth')
    with (
        zipfile.ZipFile(tmp_path / 'empty.pth') as empty,
        zipfile.ZipFile(tmp_path / 'evil.pth', 'w') as evil,
    ):
        for name in empty.namelist():
            is_pickle = name.endswith('data.pkl')
            code = b'\x80\x02' + builtins + string('type') + execute + b's' + program + b'(e.'
            evil.writestr(name, code if is_pickle else empty.read(name))
    for read in (read_checkpoint, WAYS['get_model']):
        with pytest.raises(UserError, match='it asks for __init__ of'):
            read(str(tmp_path / 'evil.pth'))
    assert not ran.exists()


def test_damaged_file_is_named_on_the_same_ways(tmp_path):
    path = tmp_path / 'half.pth'
    torch.save(KAT(SMALL).state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=f'checkpoint {path} cannot be read; it is truncated'):
        WAYS['head.init_cfg'](str(path))


INFERENCER = """
import sys
from mmengine.infer import BaseInferencer
import kat_mm

backbone = dict(type=sys.argv[2], arch='tiny')
cfg = dict(model=dict(type='ImageClassifier', backbone=backbone))
try:
    BaseInferencer._init_model(None, cfg, sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize('backbone', ['KAT', 'kat_mm.KAT', 'ResNet'])
def test_an_inferencer_runs_no_code_for_a_config_that_names_a_kat(backbone, evil, ran):
    # Which reads the weights before it builds the model: the first of its process.
    result = subprocess.run(
        [sys.executable, '-c', INFERENCER, evil, backbone], capture_output=True, text=True
    )
    assert ran.exists() == (backbone == 'ResNet'), result.stderr
    assert ('would run code: it wants posix.system' in result.stdout) == ('KAT' in backbone)


def test_an_inferencer_does_not_run_the_config_in_a_file_where_files_are_not_trusted(tmp_path, ran):
    path = tmp_path / 'weights.pth'
    code = f'import os\nos.system("touch {ran}")\n'
    torch.save(dict(state_dict={}, meta=dict(cfg=code)), path)
    trust_files(False)
    with pytest.raises(UserError, match=f'would run the one in {path}, which is code; give it'):
        BaseInferencer._init_model(None, ConfigDict(), str(path))
    assert not ran.exists()


# Other models


def test_other_models_of_the_process_read_what_they_did(evil, ran):
    KAT(SMALL)
    get_model(classifier('ResNet'), pretrained=evil)
    assert ran.exists()
    ran.unlink()
    init_weights(classifier('ResNet'), checkpoint=evil)
    assert ran.exists()
    ran.unlink()
    torch.load(evil, weights_only=False)
    assert ran.exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(evil)


def test_a_model_that_is_read_beside_a_kat_is_left_alone(evil, ran):
    model = nn.ModuleDict(dict(kat=KAT(SMALL), other=nn.Linear(2, 2)))
    load_checkpoint(model['other'], evil)
    assert ran.exists()


# Runs


class Trained(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = KAT(SMALL, img_size=32)

    def forward(self, inputs, mode):
        return dict(loss=self.backbone(torch.stack(inputs))[0].square().mean())


def runner(work_dir, dataset=None, **kwargs) -> Runner:
    """mmengine's own, of somebody else's tool."""
    return Runner(
        Trained(),
        str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            dataset=dataset or [torch.ones(3, 32, 32)] * 4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=lambda batch: dict(inputs=batch),
        ),
        train_cfg=dict(by_epoch=False, max_iters=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        experiment_name=f'test_trust_{work_dir.name}',
        **kwargs,
    )


@pytest.mark.parametrize('resume', [False, True])
def test_code_in_a_file_does_not_run_as_a_run_starts_from_it(resume, evil, ran, tmp_path):
    with pytest.raises(UserError, match='would run code'):
        runner(tmp_path / 'run', load_from=evil, resume=resume).train()
    assert not ran.exists()
    assert not list(tmp_path.glob('run/*.pth'))


def test_config_in_a_checkpoint_does_not_run_as_a_run_goes_on(ran, tmp_path):
    runner(tmp_path / 'run').train()
    path = tmp_path / 'run' / 'iter_1.pth'
    content = torch.load(path, weights_only=False)
    content['meta']['config'] = f'import os\nos.system("touch {ran}")\n'
    torch.save(content, path)
    resumed = runner(tmp_path / 'resumed', load_from=str(path), resume=True)
    resumed.train()
    assert resumed.iter == 2
    assert not ran.exists()


def test_a_checkpoint_names_no_files_of_other_folders_as_a_run_goes_on(tmp_path):
    """mmengine removes the best checkpoint that it finds there, once there is a better one."""
    runner(tmp_path / 'run').train()
    path = tmp_path / 'run' / 'iter_1.pth'
    content = torch.load(path, weights_only=False)
    named = dict(best_ckpt='/home/precious.pth', keep_ckpt_ids=['../../precious', 1])
    content['message_hub']['runtime_info'].update(named)
    content['message_hub']['resumed_keys'].update(dict.fromkeys(named, True))
    torch.save(content, path)
    resumed = runner(tmp_path / 'resumed', load_from=str(path), resume=True)
    resumed.load_or_resume()
    assert resumed.message_hub.get_info('best_ckpt') == str(tmp_path / 'run/precious.pth')
    assert list(resumed.message_hub.get_info('keep_ckpt_ids')) == [1]


# Data


def proposals(tmp_path, *values):
    path = tmp_path / 'proposals.pkl'
    mmengine.dump({f'{index}.jpg': value for index, value in enumerate(values)}, str(path))
    return str(path)


def test_proposals_are_read_without_code(tmp_path):
    trust_files(False)
    boxes = InstanceData(bboxes=np.ones((2, 4)), scores=np.float32([0.5, 0.25]))
    plain = dict(bboxes=np.zeros((1, 4), np.float32), names=['a'])
    found = mmengine.load(proposals(tmp_path, boxes, plain))
    assert (found['0.jpg'].bboxes == 1).all() and (found['0.jpg'].scores == [0.5, 0.25]).all()
    assert (found['1.jpg']['bboxes'] == 0).all() and found['1.jpg']['names'] == ['a']


def test_code_in_proposals_is_refused_where_files_are_not_trusted(tmp_path, ran):
    path = proposals(tmp_path, Command(f'touch {ran}'))
    trust_files(False)
    with pytest.raises(UserError, match=f'{path} holds more than arrays.*it wants posix.system'):
        mmengine.load(path)
    assert not ran.exists()
    trust_files(True)
    mmengine.load(path)
    assert ran.exists()


def test_yaml_is_data_where_files_are_not_trusted(tmp_path, ran):
    path = tmp_path / 'boxes.yaml'
    mmengine.dump(dict(boxes=[(1.5, 2)], names=['a'], none=None), str(path))
    code = tmp_path / 'evil.yaml'
    code.write_text(f'boxes: !!python/object/apply:os.system ["touch {ran}"]')
    trust_files(False)
    assert mmengine.load(str(path)) == dict(boxes=[(1.5, 2)], names=['a'], none=None)
    with pytest.raises(
        UserError, match=f'{code} holds more than .*it wants object/apply:os.system'
    ):
        mmengine.load(str(code))
    assert not ran.exists()
    trust_files(True)
    mmengine.load(str(code))
    assert ran.exists()


@pytest.mark.parametrize('name', ['weights.pkl', 'weights.npy'])
def test_code_in_the_weights_of_classes_does_not_run(name, tmp_path, ran):
    from mmseg.apis import init_model

    path, evil = tmp_path / name, Command(f'touch {ran}')
    if name == 'weights.pkl':
        path.write_bytes(pickle.dumps(evil))
    else:
        np.save(path, np.array([evil], object))
    cfg = segmentor()
    loss = dict(type='CrossEntropyLoss', class_weight=str(path))
    cfg.model.decode_head.loss_decode = loss
    with pytest.raises(ValueError, match='holds more than arrays|allow_pickle=False'):
        init_model(cfg, None, device='cpu')
    assert not ran.exists()


def test_a_config_in_yaml_is_data_to_our_tools(tmp_path, ran):
    path = tmp_path / 'config.yml'
    path.write_text(f'default_scope: !!python/object/apply:os.system ["touch {ran}"]')
    trust_files(False)
    with pytest.raises(UserError, match=r'config.yml cannot be read: .*object/apply:os.system'):
        read_config(path)
    assert not ran.exists()


def test_medical_images_that_are_pickles_are_read_without_code(tmp_path, ran):
    from mmseg.datasets.transforms import LoadBiomedicalData

    data = np.arange(48.0, dtype=np.float32).reshape(2, 2, 3, 4)
    load = LoadBiomedicalData(decode_backend='pickle')
    for name, content in (('sound', data), ('evil', Command(f'touch {ran}'))):
        (tmp_path / name).write_bytes(pickle.dumps(content))
    trust_files(False)
    found = load(dict(img_path=str(tmp_path / 'sound')))['img']
    np.testing.assert_array_equal(found, data[:-1])  # the last is the labels
    with pytest.raises(UserError, match=f'{tmp_path}/evil holds more than arrays'):
        load(dict(img_path=str(tmp_path / 'evil')))
    assert not ran.exists()


def test_hierarchies_of_openimages_are_read_without_code(tmp_path, ran):
    from mmdet.datasets import OpenImagesChallengeDataset

    read = OpenImagesChallengeDataset._get_relation_matrix
    table = np.array([['', 'a', 'b'], ['a', 1, 0], ['b', 1, 1]], object)
    evil = np.array([[Command(f'touch {ran}')] * 2] * 2)
    for name, content in (('names', table), ('numbers', np.eye(3)), ('evil', evil)):
        np.save(tmp_path / name, content)
    dataset = SimpleNamespace(backend_args=None)
    trust_files(False)
    assert read(dataset, str(tmp_path / 'names.npy')).tolist() == [[1, 0], [1, 1]]
    assert read(dataset, str(tmp_path / 'numbers.npy')).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(UserError, match='evil.npy holds more than arrays'):
        read(dataset, str(tmp_path / 'evil.npy'))
    assert not ran.exists()
    trust_files(True)
    read(dataset, str(tmp_path / 'evil.npy'))
    assert ran.exists()


def test_code_in_data_of_a_run_with_a_kat_is_refused(tmp_path, ran):
    path = proposals(tmp_path, Command(f'touch {ran}'))

    with pytest.raises(UserError, match='holds more than arrays'):
        runner(tmp_path / 'run', dict(type=mmengine.load, file=path)).train()
    assert not ran.exists()
    mmengine.load(path)
    assert ran.exists()


# The whole process


def test_a_process_that_trusts_no_file_reads_none_that_holds_code(evil, ran):
    trust_files(False)
    for read in (torch.load, CheckpointLoader.load_checkpoint):
        with pytest.raises(UserError, match='would run code'):
            read(evil)
    with pytest.raises(UserError, match='would run code'):
        torch.load(evil, weights_only=False)
    with pytest.raises(UserError, match='would run code'):
        load_checkpoint(nn.Linear(2, 2), evil)
    assert not ran.exists()


def test_a_process_that_trusts_its_files_reads_all(evil, ran):
    trust_files(True)
    for read in (read_checkpoint, CheckpointLoader.load_checkpoint):
        read(evil)
        assert ran.exists()
        ran.unlink()
