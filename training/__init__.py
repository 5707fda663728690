"""Training stages of MILCO: sparse alignment pretraining (``sap.py``) and what it needs."""

from importlib.util import find_spec

if find_spec("pyarrow") is None:
    raise ImportError('Training needs what the package alone does not bring: pip install "milco-hf[train]"')
