//! An order that waits for its payment, however long that takes and whatever becomes of hosts: the smallest durable function
//! worth copying. `echo` and `sleep` stand for the services of a shop.

use core::time::Duration;

use baton_sdk::durable::Execution;
use baton_sdk::prelude::*;

/// What is ordered.
#[derive(Deserialize)]
struct Order {
    item: String,
    /// What it costs, in cents.
    price: u64,
    /// How long the payment is waited for, in milliseconds.
    #[serde(default = "one_day")]
    patience_ms: u64,
}

/// What the stock says.
#[derive(Serialize, Deserialize)]
struct Reservation {
    number: u64,
    item: String,
}

/// What the event `payment` says.
#[derive(Deserialize)]
struct Payment {
    /// In cents.
    amount: u64,
}

/// What is shipped, and how long that takes.
#[derive(Serialize)]
struct Shipping<'a> {
    item: &'a str,
    reservation: u64,
    ms: u64,
}

#[derive(Serialize)]
struct Receipt {
    reservation: u64,
    item: String,
    paid: u64,
    paid_at_ms: u64,
}

fn one_day() -> u64 {
    24 * 3600 * 1000
}

#[baton_sdk::durable]
fn order(execution: &Execution, order: Order) -> Result<Receipt> {
    // The number is the same whenever this runs again, and the call is made once.
    let wanted = Reservation { number: execution.random() % 1_000_000, item: order.item };
    let reserved: Reservation = execution.call("echo", &wanted)?;
    execution.emit("reserved", &reserved.number)?;

    let mut paid = 0;
    let end_ms = execution.now_ms().saturating_add(order.patience_ms);
    while paid < order.price {
        let left = Duration::from_millis(end_ms.saturating_sub(execution.now_ms()));
        match execution.wait_event_for("payment", left) {
            Some(event) => match event.json::<Payment>() {
                Ok(payment) => paid = paid.saturating_add(payment.amount),
                // Whoever sends something else has not paid: that is told, and the order waits on.
                Err(_) => execution.emit("no-payment", &event.id())?,
            },
            None => {
                if paid > 0 {
                    refund(execution, paid, &reserved)?;
                }
                release(execution, &reserved)?;
                return Err(Failure::reject("not-paid", format!("{paid} of {} was paid in time", order.price)));
            }
        }
    }
    let paid_at_ms = execution.now_ms();
    let shipping = Shipping { item: &reserved.item, reservation: reserved.number, ms: 20 };
    if let Err(failed) = execution.call::<Bytes>("sleep", &shipping) {
        refund(execution, paid, &reserved)?;
        release(execution, &reserved)?;
        return Err(failed);
    }
    Ok(Receipt { reservation: reserved.number, item: reserved.item, paid, paid_at_ms })
}

/// Pays back what was paid.
fn refund(execution: &Execution, paid: u64, reserved: &Reservation) -> Result<()> {
    execution.call::<Bytes>("echo", &format!("refund {paid} of {}", reserved.number)).map(drop)
}

/// Takes the reservation back.
fn release(execution: &Execution, reserved: &Reservation) -> Result<()> {
    execution.call::<Bytes>("echo", &format!("release {}", reserved.number))?;
    execution.emit("released", &reserved.number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_sdk::durable::Script;

    const ORDER: &str = r#"{"item":"lamp","price":300,"patience_ms":1000}"#;
    const SHIPPED: &str = r#"call sleep {"item":"lamp","reservation":7,"ms":20}"#;

    fn reserved() -> Script {
        Script::default().call_answers("echo", r#"{"number":7,"item":"lamp"}"#)
    }

    #[test]
    fn an_order_that_is_paid_in_parts_is_shipped() {
        let script = reserved().event_comes("payment", r#"{"amount":100}"#).event_comes("payment", r#"{"amount":200}"#);
        let (receipt, steps) = script.call_answers("sleep", "20").run::<order>(ORDER);
        assert_eq!(receipt.unwrap().text(), r#"{"reservation":7,"item":"lamp","paid":300,"paid_at_ms":0}"#);
        assert_eq!(steps[1..], ["emit reserved 7", "wait payment 1000", "wait payment 1000", SHIPPED]);
    }

    #[test]
    fn what_is_no_payment_loses_nothing() {
        let script =
            reserved().event_comes("payment", r#"{"amount":"300"}"#).event_comes("payment", r#"{"amount":300}"#);
        let (receipt, steps) = script.call_answers("sleep", "20").run::<order>(ORDER);
        assert!(receipt.is_ok() && steps[3] == r#"emit no-payment "event-1""#, "{steps:?}");
    }

    #[test]
    fn what_cannot_be_shipped_is_paid_back_and_released() {
        let script = reserved().event_comes("payment", r#"{"amount":300}"#).call_fails("sleep", "broken", "in pieces");
        let (refused, steps) = script.call_answers("echo", "\"\"").call_answers("echo", "\"\"").run::<order>(ORDER);
        assert_eq!(refused.err(), Some(Failure::reject("broken", "in pieces")));
        let back = [SHIPPED, r#"call echo "refund 300 of 7""#, r#"call echo "release 7""#, "emit released 7"];
        assert_eq!(steps[3..], back);
    }

    #[test]
    fn what_is_not_paid_in_time_is_paid_back_and_released() {
        let script = reserved().event_comes("payment", r#"{"amount":100}"#).no_event("payment");
        let (refused, steps) = script.call_answers("echo", "\"\"").call_answers("echo", "\"\"").run::<order>(ORDER);
        assert_eq!(refused.err(), Some(Failure::reject("not-paid", "100 of 300 was paid in time")));
        let back = [r#"call echo "refund 100 of 7""#, r#"call echo "release 7""#, "emit released 7"];
        assert_eq!(steps[4..], back);
    }

    #[test]
    fn what_cannot_be_reserved_is_refused_with_the_word_of_the_stock() {
        let (refused, _) = Script::default().call_fails("echo", "sold-out", "no lamps").run::<order>(ORDER);
        assert_eq!(refused.err(), Some(Failure::reject("sold-out", "no lamps")));
    }
}
