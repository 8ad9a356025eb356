import pytest

from skdvl.parallel.pickling import cloudpickle


@pytest.fixture(autouse=True, scope="module")
def _functions_travel_by_value(request):
    """Workers cannot import test modules: pytest does not put them on the path."""
    cloudpickle.register_pickle_by_value(request.module)
    yield
    cloudpickle.unregister_pickle_by_value(request.module)
