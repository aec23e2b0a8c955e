"""The search space: four layers in sequence, of which those that shrink the image cannot be skipped."""

from condnet import SearchSpace, register_space

SKIP, CONV3, CONV5, SEPARABLE = range(4)

SPACE = register_space(
    SearchSpace(
        name='my_space',
        subset='full',
        operations=('skip', 'conv3', 'conv5', 'separable'),
        choices=((CONV3, CONV5), (SKIP, CONV3, SEPARABLE), (CONV3, CONV5, SEPARABLE), (SKIP, CONV3, CONV5, SEPARABLE)),
        predecessors=((), (0,), (1,), (2,)),
        weighted=(CONV3, CONV5, SEPARABLE),
    )
)
