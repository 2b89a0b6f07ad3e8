"""Operations with a plain reference that defines them; a faster implementation is the same operation."""
