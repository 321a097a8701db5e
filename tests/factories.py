"""Rows with which tests begin."""

from typing import Any

import factory
from factory.alchemy import SQLAlchemyModelFactory
from sqlalchemy.orm import Session

from chat_app.models import User


class UserFactory(SQLAlchemyModelFactory):
    """A user with a unique phone number."""

    class Meta:
        model = User

    phone = factory.Sequence(lambda number: f"+7916{number:07d}")
    name = factory.Faker("name")

    @classmethod
    def make(cls, db: Session, **values: Any) -> User:
        """One user, written to this database session."""
        cls._meta.sqlalchemy_session = db
        cls._meta.sqlalchemy_session_persistence = "flush"
        user = cls.create(**values)
        db.refresh(user)
        return user
