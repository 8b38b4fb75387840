"""What says that memory ran out, and the sentence that a person gets for it."""

import errno
import resource

import pytest
import torch

from markovae.errors import UserError
from markovae.system.memory import memory_sentence, out_of_memory

HOST = [
    MemoryError(),
    MemoryError("std::bad_alloc"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("not enough memory: you tried to allocate 8 bytes"),
    RuntimeError("could not create a primitive"),
    RuntimeError("could not create a memory object"),
    RuntimeError("unable to mmap 4096 bytes from file <x>: Cannot allocate memory (12)"),
    RuntimeError("can't start new thread"),
    SystemError("error return without exception set"),
    SystemError("<built-in method conv2d of type object at 0x7f> returned NULL without setting an exception"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError("out of memory when reading image file"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]
DEVICE = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)"),
]
OTHER = [
    RuntimeError("shape '[2]' is invalid for input of size 3"),
    RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive"),
    SystemError("unknown opcode"),
    OSError(errno.ENOENT, "No such file or directory"),
    ImportError("No module named 'x'"),
    UserError("out of memory"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", HOST + DEVICE, ids=str)
def test_what_says_that_memory_ran_out(error: BaseException):
    assert out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=repr)
def test_other_errors_say_something_else(error: BaseException):
    assert not out_of_memory(error)


@pytest.mark.parametrize("error", HOST, ids=str)
def test_the_sentence_names_the_machines_memory_and_a_limit_on_it(error: BaseException, monkeypatch):
    assert memory_sentence(error).startswith("the memory is full: lower --batch")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (3 * 2**29, -1))
    assert "(1.5 GiB: ulimit -v) is full: lower --batch" in memory_sentence(error)


@pytest.mark.parametrize("error", DEVICE, ids=str)
def test_the_sentence_names_the_devices_memory(error: BaseException):
    assert memory_sentence(error).startswith("the device's memory is full: lower --batch")
    assert "another --device" in memory_sentence(error)
