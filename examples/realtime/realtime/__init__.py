"""Operations over many files, whose progress is seen while they run."""
