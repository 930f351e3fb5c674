"""What all workers and replicas of a deployment must know, stored on Kestrel itself."""
