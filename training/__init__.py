"""Training stages of MILCO: sparse alignment pretraining (``sap.py``) and what it needs."""
