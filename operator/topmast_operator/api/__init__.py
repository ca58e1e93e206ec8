"""What the operator reads and writes: the resource, the facts about its children, conditions. No decisions."""
