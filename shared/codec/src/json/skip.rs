//! JSON values that nobody wants: checked to be JSON, and dropped.

use super::cursor::Cursor;
use super::read::Reader;
use crate::reject::Checked;

impl Reader {
    /// Reads over one value of any type; `depth` is that of the container.
    pub(super) fn skip(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Checked<()> {
        match cursor.next_token() {
            Some(b'"') => self.skip_string(cursor),
            Some(b'-' | b'0'..=b'9') => cursor.number().map(drop),
            Some(b'[') => self.elements(cursor, depth, |reader, cursor, _| {
                reader.skip(cursor, depth + 1)
            }),
            Some(b'{') => self.skip_object(cursor, depth + 1),
            Some(_) if cursor.word(b"true") || cursor.word(b"false") || cursor.word(b"null") => {
                Ok(())
            }
            _ => Err(cursor.malformed("expected a value")),
        }
    }

    fn skip_string(&mut self, cursor: &mut Cursor<'_>) -> Checked<()> {
        let text = cursor.string()?;
        self.plain(cursor, text).map(drop)
    }

    /// `depth` counts this object.
    fn skip_object(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Checked<()> {
        self.check_depth(depth)?;
        cursor.advance(1);
        if cursor.next_token() == Some(b'}') {
            cursor.advance(1);
            return Ok(());
        }
        loop {
            if cursor.next_token() != Some(b'"') {
                return Err(cursor.malformed("expected a field's name"));
            }
            self.skip_string(cursor)?;
            cursor.colon()?;
            self.skip(cursor, depth)?;
            match cursor.next_token() {
                Some(b',') => cursor.advance(1),
                Some(b'}') => break,
                _ => return Err(cursor.malformed("expected ',' or '}'")),
            }
        }
        cursor.advance(1);
        Ok(())
    }
}
