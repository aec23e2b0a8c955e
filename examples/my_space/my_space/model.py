"""The models: the super-network `my_space_supernet`, and `my_space_net`, the stand-alone network of an architecture."""

from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, create_model, generate_default_cfgs, register_model
from torch import nn

from condnet import ChoiceBlock, Step, Supernet, build_supernet, checkpoint_filter_fn, get_space
from my_space.space import CONV5, SEPARABLE, SKIP

LAYERS = ((16, 2), (16, 1), (24, 2), (24, 1))  # output channels and stride of each decision's layer


def make_operation(operation, in_chs, out_chs, stride):
    """The module of an operation, by its number. (B, C, H, W) -> (B, C', H / stride, W / stride)."""
    if operation == SKIP:
        return nn.Identity()
    kernel = 5 if operation == CONV5 else 3
    if operation == SEPARABLE:
        depthwise = nn.Conv2d(in_chs, in_chs, kernel, stride, kernel // 2, groups=in_chs, bias=False)
        layers = [depthwise, nn.Conv2d(in_chs, out_chs, 1, bias=False)]
    else:
        layers = [nn.Conv2d(in_chs, out_chs, kernel, stride, kernel // 2, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(out_chs), nn.ReLU())


class MyNetwork(nn.Module):
    """What both models share: stem, one layer for each decision, classifier; a timm model."""

    def __init__(self, make_layer, num_classes, in_chans, global_pool):
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = LAYERS[-1][0]
        self.stem = nn.Sequential(nn.Conv2d(in_chans, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        in_chs = [8, *(out_chs for out_chs, _ in LAYERS)]
        layers = [make_layer(i, in_chs[i], out_chs, stride) for i, (out_chs, stride) in enumerate(LAYERS)]
        self.layers = nn.Sequential(*layers)
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self):
        return self.head

    def reset_classifier(self, num_classes, global_pool='avg'):
        self.num_classes = num_classes
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()

    def forward_features(self, x):
        return self.layers(self.stem(x))

    def forward_head(self, x, pre_logits=False):
        x = self.global_pool(x)
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class MySupernet(Supernet, MyNetwork):
    """The super-network: every layer is a choice block."""

    def __init__(
        self, space='full', split=False, num_classes=10, in_chans=3, global_pool='avg', active_subnet=None
    ):  # fmt: skip
        search_space = get_space('my_space', space)

        def make_layer(decision, in_chs, out_chs, stride):
            return ChoiceBlock(search_space, decision, lambda o: make_operation(o, in_chs, out_chs, stride))

        super().__init__(make_layer, num_classes, in_chans, global_pool)
        self.space = search_space
        self.set_up(split, active_subnet)

    def make_standalone(self, arch, common):
        return create_model('my_space_net', arch=arch, **common)

    def forward_steps(self):
        """Optional: architectures whose first layers are equal then share them in a ranking."""
        self.check_active()
        layers = [block.active_module() for block in self.choice_blocks()]
        return [Step.of(module) for module in (self.stem, *layers)] + [self.head_step()]


class MyNet(MyNetwork):
    """The stand-alone network of an architecture."""

    def __init__(self, arch=(1, 1, 1, 1), num_classes=10, in_chans=3, global_pool='avg'):
        parsed = get_space('my_space').parse(arch)

        def make_layer(decision, in_chs, out_chs, stride):
            return make_operation(parsed[decision], in_chs, out_chs, stride)

        super().__init__(make_layer, num_classes, in_chans, global_pool)
        self.arch = parsed


def _cfg():
    return {
        'num_classes': 10,
        'input_size': (3, 32, 32),
        'mean': (0.5, 0.5, 0.5),
        'std': (0.25, 0.25, 0.25),
        'first_conv': 'stem.0',
        'classifier': 'head',
    }


default_cfgs = generate_default_cfgs({'my_space_supernet.untrained': _cfg(), 'my_space_net.untrained': _cfg()})


@register_model
def my_space_supernet(pretrained=False, **kwargs):
    """The super-network of my_space, see `MySupernet`."""
    return build_supernet(MySupernet, 'my_space_supernet', pretrained, **kwargs)


@register_model
def my_space_net(pretrained=False, **kwargs):
    """The stand-alone network of my_space, see `MyNet`."""
    return build_model_with_cfg(MyNet, 'my_space_net', pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs)
