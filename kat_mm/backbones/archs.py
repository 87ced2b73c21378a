import difflib

from kat_mm.arguments import MOST_CHANNELS, MOST_LAYERS, check_int

ARCHS = {
    'tiny': dict(embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=768),
    'small': dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536),
    'base': dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072),
    'large': dict(embed_dims=1024, num_layers=24, num_heads=16, feedforward_channels=4096),
}


def resolve_arch(arch: str | dict) -> dict:
    """The sizes of an arch, by its name or as they are.

    Raises:
        ValueError: The name is unknown, or a size is missing, too many, or no whole number.
    """
    keys = tuple(ARCHS['tiny'])
    if isinstance(arch, str):
        if arch not in ARCHS:
            near = difflib.get_close_matches(arch, ARCHS, n=1)
            hint = f'; did you mean {near[0]!r}?' if near else '.'
            raise ValueError(
                f'KAT: arch={arch!r} is unknown{hint} Choose one of {", ".join(ARCHS)}, '
                f'or give a dict with the keys {", ".join(keys)}'
            )
        return ARCHS[arch]
    if not isinstance(arch, dict):
        raise ValueError(
            f'KAT: arch={arch!r} must be one of {", ".join(ARCHS)}, or a dict with the keys '
            f'{", ".join(keys)}'
        )
    if set(arch) != set(keys):
        raise ValueError(
            f'KAT: arch has the keys {", ".join(arch)}; it must have exactly {", ".join(keys)}'
        )
    for key in keys:
        most = MOST_LAYERS if key == 'num_layers' else MOST_CHANNELS
        check_int('KAT', f'arch[{key!r}]', arch[key], 1, most)
    return arch
