//! Lists are read by statements that grow with what is asked for.

use super::MAX_ROWS;
use crate::StoreError;
use crate::db::{Db, Row, Value};

/// A `SELECT` whose conditions grow one by one; parameters keep their order.
pub(super) struct Select {
    pub(super) sql: String,
    pub(super) params: Vec<Value>,
}

impl Select {
    pub(super) fn new(sql: &str) -> Self {
        Self { sql: format!("{sql} WHERE 1 = 1"), params: Vec::new() }
    }

    pub(super) fn and(&mut self, condition: &str) {
        self.sql.push_str(" AND ");
        self.sql.push_str(condition);
    }

    /// `condition` ends before its parameter.
    pub(super) fn and_value(&mut self, condition: &str, value: Value) {
        self.params.push(value);
        let number = self.params.len();
        self.and(&format!("{condition} ${number}"));
    }

    /// The same with a row of two values.
    pub(super) fn and_values(&mut self, condition: &str, values: [Value; 2]) {
        self.params.extend(values);
        let last = self.params.len();
        self.and(&format!("{condition} (${}, ${last})", last - 1));
    }

    /// Those asked before. Of `few` rows, another index than the key finds them.
    pub(super) fn and_before(&mut self, before: u64, few: bool) {
        let condition = if few { "+first_index <" } else { "first_index <" };
        self.and_value(condition, Value::from(before));
    }

    pub(super) fn newest_first(
        mut self,
        db: &mut dyn Db,
        limit: u32,
    ) -> Result<Vec<Row>, StoreError> {
        self.by(NEWEST, limit);
        self.rows(db)
    }

    pub(super) fn by(&mut self, order: &str, limit: u32) {
        self.params.push(Value::from(u64::from(rows_of(limit))));
        let number = self.params.len();
        self.sql.push_str(&format!(" ORDER BY {order} LIMIT ${number}"));
    }

    pub(super) fn rows(self, db: &mut dyn Db) -> Result<Vec<Row>, StoreError> {
        Ok(db.query(&self.sql, &self.params)?)
    }
}

/// Newest first, along the key.
pub(super) const NEWEST: &str = "first_index DESC";
/// The same of few rows that another index finds: the plus keeps SQLite from walking all requests by
/// their key instead.
pub(super) const NEWEST_OF_FEW: &str = "+first_index DESC";

/// Rows of one answer when so many are wanted; 0: as many as there may be.
pub(super) fn rows_of(limit: u32) -> u32 {
    if limit == 0 { MAX_ROWS } else { limit.min(MAX_ROWS) }
}
