"""The paper measured again, and the demonstration: what is built on top of collections."""
