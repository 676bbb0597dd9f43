"""The operator as a process of its own, on a real API server and a real mongod, measured from outside."""
