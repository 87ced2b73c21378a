"""KAT and the ViT of its shape, which a fair comparison tells apart."""


def assert_twins(kat: dict, vit: dict) -> None:
    """Two configs differ in the feed-forward, and in the published weights that they start from.

    Both of these are of one size, and have seen ImageNet-1k alone.
    """
    backbones = kat['model']['backbone'], vit['model']['backbone']
    assert [backbone.pop('ffn_cfg')['type'] for backbone in backbones] == ['GRKAN', 'MLP']
    starts = [(backbone.get('init_cfg') or {}).pop('checkpoint', None) for backbone in backbones]
    if starts != [None, None]:
        size = backbones[0]['arch'][0]  # tiny, small, base
        assert starts == [f'kat_{size}_in1k', f'deit_{size}_in1k']
    assert kat == vit
