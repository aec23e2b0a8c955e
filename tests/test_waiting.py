"""A training does not wait: neither for the device within a step, nor for the disk."""

import errno
import io
import threading

import pytest
import torch
from conftest import MODELS, SMALL, make_training, random_batch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import condnet
from condnet import CondnetError, TrainConfig
from condnet.checkpoints.training import LAST, PREVIOUS, read_training_checkpoint, save_training_checkpoint, snapshot
from condnet.data import Images, InMemoryLoader
from condnet.training.log import epoch_bar
from condnet.training.loop import Epoch, check_weights
from condnet.training.progress import Progress
from condnet.training.step import TrainingStep
from condnet.training.task import archs_of_step

READING = {'item', 'tolist', 'cpu', 'numpy', '__bool__', '__float__', '__int__', '__index__', '__array__'}
MAKING = {'tensor', 'as_tensor', 'from_numpy'}  # of numbers in Python, which are copied to the device
# What reads a tensor, makes one of numbers, or has a result whose size depends on values.
WAITING = {'_local_scalar_dense', 'lift_fresh', 'nonzero', 'masked_select', 'is_nonzero', 'equal', '_unique2'}


class NoWaiting(TorchFunctionMode):
    """Notes calls from Python that would make the CPU wait for a GPU."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if (name := getattr(func, '__name__', '')) in READING | MAKING:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class NoWaitingInside(TorchDispatchMode):
    """Notes operators that would, also those that PyTorch's own code calls, in the backward pass too."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix('aten::')
        is_to_cpu = name == '_to_copy' and (kwargs or {}).get('device') is not None
        indices = args[1] if name in ('index', 'index_put_') else ()
        is_masked = any(index is not None and index.dtype == torch.bool for index in indices)
        if name in WAITING or is_to_cpu or is_masked:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def waits_of(work):
    found = []
    with NoWaiting(found), NoWaitingInside(found):
        work()
    return found


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('is_split', [False, True])
def test_a_step_waits_for_nothing(name, is_split, monkeypatch):
    """With averaged weights, the authors' variant, and the optimizer's way on a GPU; batch, step and sum of losses."""
    task, optimizer = make_training(name, ema=True, **SMALL[name])
    optimizer.param_groups[0]['foreach'] = optimizer.param_groups[1]['foreach'] = True
    if is_split:
        task.split(optimizer)
    # The architecture is drawn on the CPU, which the device is not asked for.
    drawn = {step: archs_of_step(task.model.space, 0, step) for step in range(3)}
    monkeypatch.setattr(task, 'archs_of', drawn.__getitem__)
    images = Images(torch.zeros(24, 3, 32, 32, dtype=torch.uint8), torch.arange(24) % 10, ())
    batches = iter(InMemoryLoader(images, 8, (0.5,) * 3, (0.5,) * 3, channels_last=True))
    step = TrainingStep(task, optimizer, updates_unsampled=True)
    epoch = Epoch(step, Progress(), TrainConfig(), len(images) // 8)

    def train():
        epoch.train(*next(batches))

    train()  # once in an epoch order and crops are drawn, and copied to the device
    assert waits_of(train) == [] and waits_of(train) == []
    assert task.step == epoch.progress.batch == 3


def test_a_bar_waits_for_nothing_between_the_lines(monkeypatch):
    """Of a GPU, as this is asked of the CPU."""
    task, optimizer = make_training('nb201_cond_supernet', **SMALL['nb201_cond_supernet'])
    step, progress, stderr = TrainingStep(task, optimizer), Progress(), io.StringIO()
    stderr.isatty = lambda: True
    monkeypatch.setattr('sys.stderr', stderr)
    with epoch_bar(progress, 8, True) as bar:
        epoch = Epoch(step, progress, TrainConfig(log_interval=3), 8, bar)
        monkeypatch.setattr(task, 'device', torch.device('cuda'))
        waits = []
        for _ in range(4):
            epoch.train(*random_batch())
            waits.append(bool(waits_of(lambda: epoch.follow_up(lambda progress: None))))
    assert waits == [True, False, False, True]
    assert '| 1/8, rate 0.025, loss ' in stderr.getvalue()


def test_waiting_is_noticed():
    """Of the test above."""
    x = torch.ones(3)
    assert 'item' in waits_of(lambda: x[0].item()) and '_local_scalar_dense' in waits_of(lambda: float(x[0]))
    for work in (x.tolist, x.cpu, lambda: bool(x[0]), lambda: torch.tensor([1]), lambda: torch.as_tensor(2.0),
                 lambda: x[x > 0], lambda: x.numpy()):  # fmt: skip
        assert waits_of(work)
    y = torch.ones(3, requires_grad=True)
    y.register_hook(lambda gradient: gradient * float(gradient[0]))
    assert waits_of(lambda: (y * 2).sum().backward())


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_weights_are_read_once_unless_one_is_not_finite(value):
    task, optimizer = make_training('nb201_cond_supernet', **SMALL['nb201_cond_supernet'])
    task.step = 1
    assert len(waits_of(lambda: check_weights(task, optimizer, Progress()))) <= 2  # `bool` and what it calls
    with torch.no_grad():
        task.model.head.weight[0, 0] = 1e30  # its square is not finite, it is
        check_weights(task, optimizer, Progress())
        task.model.head.bias[1] = value
    with pytest.raises(FloatingPointError, match=r'^head.bias is not finite after step 0'):
        check_weights(task, optimizer, Progress())


def config(tiny_data, output, **changes):
    kwargs = {'cells_per_stage': 1, 'channels': (4, 4, 4)}
    settings = {'epochs': 2, 'batch_size': 256, 'eval_interval': 0, 'output': output} | changes
    return TrainConfig(data_dir=tiny_data, model_kwargs=kwargs, **settings)


def test_training_goes_on_while_a_checkpoint_is_written(tiny_data, tmp_path, monkeypatch):
    """And waits for it in the end."""
    went_on = threading.Event()

    def save(folder, state):
        assert threading.current_thread() is not threading.main_thread()
        if state['epoch'] == 0:
            assert went_on.wait(30)
        save_training_checkpoint(folder, state)

    monkeypatch.setattr('condnet.training.output.save_training_checkpoint', save)
    condnet.train(config(tiny_data, tmp_path), callbacks=[lambda row: went_on.set()])
    assert read_training_checkpoint(tmp_path / LAST)['epoch'] == 1
    assert read_training_checkpoint(tmp_path / PREVIOUS)['epoch'] == 0


@pytest.mark.parametrize('failing', [0, 2])
def test_a_checkpoint_that_cannot_be_written_ends_the_training(tiny_data, tmp_path, monkeypatch, failing):
    """When the next one is due, or in the end."""

    def save(folder, state):
        if state['epoch'] == failing:
            raise OSError(errno.ENOSPC, 'cannot write: No space left on device', str(folder / LAST))
        save_training_checkpoint(folder, state)

    monkeypatch.setattr('condnet.training.output.save_training_checkpoint', save)
    rows = []
    left = 'no checkpoint was written before' if failing == 0 else f'the last good checkpoint is {tmp_path / LAST}'
    with pytest.raises(CondnetError, match='No space left on device.*; ') as error:
        condnet.train(config(tiny_data, tmp_path, epochs=3), callbacks=[rows.append])
    assert str(error.value).endswith(left) and len(rows) == (1 if failing == 0 else 3)
    monkeypatch.undo()
    if failing:
        assert len(condnet.train(config(tiny_data, tmp_path, epochs=3, resume=tmp_path)).history) == 3


def test_checkpoints_by_time(tiny_data, tmp_path, monkeypatch):
    """Those that something depends on are always written; the tables are of the checkpoint."""
    saved = []

    def save(folder, state):
        saved.append(state['epoch'] + 1)
        save_training_checkpoint(folder, state)

    monkeypatch.setattr('condnet.training.output.save_training_checkpoint', save)
    more = {'epochs': 6, 'split_epoch': 1, 'keep_epochs': (3,), 'stop_epoch': 5}
    condnet.train(config(tiny_data, tmp_path / 'a', checkpoint_seconds=1e6, **more))
    assert saved == [1, 3, 5] and (tmp_path / 'a' / 'milestone-3.pth.tar').exists()
    saved.clear()
    condnet.train(config(tiny_data, tmp_path / 'b', checkpoint_seconds=1e-9, **more))
    assert saved == [1, 2, 3, 4, 5]
    ends = [read_training_checkpoint(tmp_path / name / LAST)['state_dict'] for name in 'ab']
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    with pytest.raises(CondnetError, match='checkpoint_seconds is 60, and there is no folder'):
        condnet.train(config(tiny_data, None, checkpoint_seconds=60))


def test_a_snapshot_does_not_change_with_the_training():
    shared = torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state = {
        'a': [shared, {'b': shared.detach()}],
        'c': (torch.ones(0), 'text'),
        'model': torch.nn.Linear(2, 2).state_dict(),
    }
    copied = snapshot(state)
    shared += 1
    state['a'].append(1)
    assert torch.equal(copied['a'][0], torch.ones(2, 3, 4, 5)) and copied['a'][0].stride() == shared.stride()
    assert copied['a'][0] is copied['a'][1]['b'] and len(copied['a']) == 2 and copied['c'][1] == 'text'
    assert type(copied['model']) is type(state['model']) and copied['model']._metadata == state['model']._metadata
