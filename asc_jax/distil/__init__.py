"""A campaign of distillation: teachers, their logits, and a student with and without them."""
