"""One thread of linear algebra where accuracy is predicted.

The matrix products of a prediction are small: more threads cost more than they save, above all where several processes
share the cores. torch and onnxruntime have threads of their own, which stay as they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """A context, and a decorator, in which numpy multiplies matrices in one thread.

    It holds for the whole process with the OpenBLAS that numpy's wheels bring, as long as the thread that
    entered it first stays in it.
    """
    with threadpool_limits(1, "blas"):
        yield
