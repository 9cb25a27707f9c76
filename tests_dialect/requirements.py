"""What SQLite can do through SQLAlchemy: which tests run, on our dialect as on SQLAlchemy's own.

Nothing here asks for the driver, so that both have the same tests to pass.
"""

from typing import Any

from sqlalchemy.testing import exclusions
from sqlalchemy.testing.requirements import SuiteRequirements

# SQLAlchemy assumes of a dialect that it cannot do these. Some are new in 2.1.
_SUPPORTED = """
autocommit check_constraint_reflection computed_columns computed_columns_reflect_persisted
computed_columns_stored computed_columns_virtual create_table_as create_temp_table_as ctes
ctes_with_values date_historic datetime_historic datetime_literals dbapi_lastrowid
emulated_lastrowid expression_server_defaults fetch_expression fetch_offset_with_options
fk_constraint_option_reflection_ondelete_noaction
fk_constraint_option_reflection_ondelete_restrict
fk_constraint_option_reflection_onupdate_restrict
float_or_double_precision_behaves_generically foreign_key_constraint_name_reflection
foreign_key_constraint_option_reflection_ondelete
foreign_key_constraint_option_reflection_onupdate index_ddl_if_exists indexes_check_column_order
indexes_with_expressions infinity_floats inline_check_constraint_reflection isolation_level
json_type legacy_unconditional_json_extract nvarchar_types percent_schema_names
precision_numerics_retains_significant_digits reflect_table_options reflects_pk_names regexp_match
repeated_column_foreign_keys server_defaults skip_autocommit_rollback supports_bitwise_and
supports_bitwise_not supports_bitwise_or supports_bitwise_shift supports_bitwise_xor
table_ddl_if_exists tuple_in unicode_ddl update_from views window_functions window_range
window_range_numeric
"""

# And of these, that it can. (Connections are independent, but the tests that ask for it open some
# that lack the second database, and most of them would fail.)
_UNSUPPORTED = """
implicitly_named_constraints independent_connections
json_index_supplementary_unicode_element
parens_in_union_contained_select_w_limit_offset parens_in_union_contained_select_wo_limit_offset
"""

# A temporary table belongs to one connection: there is only one where the database is in memory.
_WITH_ONE_CONNECTION = """
has_temp_table temp_table_names temp_table_reflect_indexes temp_table_reflection temporary_tables
temporary_views
"""

# And several where it is a file.
_WITH_SEVERAL_CONNECTIONS = "independent_readonly_connections"


class Requirements(SuiteRequirements):
    def get_order_by_collation(self, config: Any) -> str:
        return "NOCASE"


def _in_memory(config: Any) -> bool:
    return config.db.url.database in (None, ":memory:")


def _on_file(config: Any) -> bool:
    return not _in_memory(config)


for _names, _exclusion in (
    (_SUPPORTED, exclusions.open),
    (_UNSUPPORTED, exclusions.closed),
    (_WITH_ONE_CONNECTION, lambda: exclusions.only_if(_in_memory)),
    (_WITH_SEVERAL_CONNECTIONS, lambda: exclusions.only_if(_on_file)),
):
    for _name in _names.split():
        # A property, for SQLAlchemy adds to what it gets.
        setattr(Requirements, _name, property(lambda _, exclusion=_exclusion: exclusion()))
