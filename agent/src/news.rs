//! Telling a value to those who wait for another one.

use tokio::sync::watch;

/// Tells a value, and wakes whoever waits if it is another than before.
pub fn tell<T: PartialEq>(told: &watch::Sender<T>, value: T) {
    told.send_if_modified(|before| {
        let is_news = *before != value;
        *before = value;
        is_news
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_is_no_news() {
        let (told, mut heard) = watch::channel(1);
        tell(&told, 1);
        assert!(!heard.has_changed().unwrap());
        tell(&told, 2);
        assert!(heard.has_changed().unwrap());
        assert_eq!(*heard.borrow_and_update(), 2);
        tell(&told, 2);
        assert!(!heard.has_changed().unwrap());
    }
}
